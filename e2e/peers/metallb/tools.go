//go:build tools

// Package metallb names the programs that build.sh builds, so that `go mod tidy` keeps their modules.
package metallb

import (
	_ "go.universe.tf/metallb/controller"
	_ "go.universe.tf/metallb/speaker"
)
