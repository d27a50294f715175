{{/* Labels that select the Pods of one component. They may never change: a Deployment's selector is for ever. */}}
{{- define "ringfence.selector" -}}
app.kubernetes.io/name: ringfence
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of every object of one component. */}}
{{- define "ringfence.labels" -}}
{{ include "ringfence.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Image reference: an empty tag means the version that this chart was made for. */}}
{{- define "ringfence.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* Name of one component's objects. Cluster-wide ones bear the same name: there is one Ringfence in a cluster. */}}
{{- define "ringfence.name" -}}
ringfence-{{ .component }}
{{- end }}
