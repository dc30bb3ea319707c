{{/* A file of manifests/, for the namespace of the release. */}}
{{- define "herald.file" -}}
{{- .root.Files.Get (printf "files/%s.yaml" .name) | replace "namespace: metallb-system" (printf "namespace: %s" .root.Release.Namespace) | replace "metallb-system/" (printf "%s/" .root.Release.Namespace) | replace "name: metallb-system" (printf "name: %s" .root.Release.Namespace) -}}
{{- end -}}

{{/* What both roles' pods have in common: image, API servers, log, class. Changes the workload in place. */}}
{{- define "herald.pod" -}}
{{- $values := .root.Values -}}
{{- $pod := .workload.spec.template.spec -}}
{{- $container := index $pod.containers 0 -}}
{{- $tag := printf ":%s" (default .root.Chart.AppVersion $values.image.tag) -}}
{{- if $values.image.digest }}{{- $tag = printf "@%s" $values.image.digest }}{{- end -}}
{{- $_ := set $container "image" (printf "%s%s" $values.image.repository $tag) -}}
{{- $_ := set $container "imagePullPolicy" $values.image.pullPolicy -}}
{{- with $values.imagePullSecrets }}{{- $_ := set $pod "imagePullSecrets" . }}{{- end -}}
{{- if $values.apiServers -}}
{{- range $container.env -}}
{{- if eq .name "HERALD_API_SERVER" }}{{- $_ := unset . "valueFrom" }}{{- $_ := set . "value" (join "," $values.apiServers) }}{{- end -}}
{{- end -}}
{{- end -}}
{{- $args := $container.args -}}
{{- with $values.loadBalancerClass }}{{- $args = append $args (printf "--lb-class=%s" .) }}{{- end -}}
{{- with $values.log.level }}{{- $args = append $args (printf "--log-level=%s" .) }}{{- end -}}
{{- with $values.log.format }}{{- $args = append $args (printf "--log-format=%s" .) }}{{- end -}}
{{- $_ := set $container "args" (concat $args .own.extraArgs) -}}
{{- $_ := set $container "resources" .own.resources -}}
{{- $_ := set $pod "nodeSelector" (merge (dict) .own.nodeSelector $pod.nodeSelector) -}}
{{- end -}}
