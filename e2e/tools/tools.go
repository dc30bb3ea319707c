//go:build tools

// Package tools names the programs that build.sh builds, so that `go mod tidy` keeps their modules.
package tools

import (
	_ "helm.sh/helm/v3/cmd/helm"
)
