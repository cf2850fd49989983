{{- define "ollama-fleet.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "ollama-fleet.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "ollama-fleet.agentName" -}}
{{ include "ollama-fleet.name" . }}-agent
{{- end }}

{{- define "ollama-fleet.agentNamespace" -}}
{{- if eq .Values.agent.preset "minimal" }}{{ .Release.Namespace }}{{ else }}{{ include "ollama-fleet.agentName" . }}{{ end }}
{{- end }}

{{- define "ollama-fleet.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "ollama-fleet.labels" -}}
{{ include "ollama-fleet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
