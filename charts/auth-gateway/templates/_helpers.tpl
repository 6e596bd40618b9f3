{{- /*
The name of the operator's objects. An AuthGateway of the same namespace makes
objects of its own name, so this one says "operator". And it is a Service's too,
which begins with a letter.
*/ -}}
{{- define "auth-gateway.fullname" -}}
{{- $release := .Release.Name | replace "." "-" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if regexMatch "^[0-9]" $release -}}
{{- printf "auth-gateway-operator-%s" $release | trunc 63 | trimSuffix "-" -}}
{{- else if contains "auth-gateway-operator" $release -}}
{{- $release | trunc 63 | trimSuffix "-" -}}
{{- else if contains "auth-gateway" $release -}}
{{- printf "%s-operator" $release | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-auth-gateway-operator" $release | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- /*
The name of what is outside of the release's namespace, where releases of other
namespaces may have theirs. A colon is in neither of its parts.
*/ -}}
{{- define "auth-gateway.scopedName" -}}
{{- .Release.Namespace }}:{{ include "auth-gateway.fullname" . -}}
{{- end }}

{{- define "auth-gateway.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "auth-gateway.fullname" .) -}}
{{- end }}

{{- define "auth-gateway.subjects" -}}
- kind: ServiceAccount
  name: {{ include "auth-gateway.serviceAccountName" . | quote }}
  namespace: {{ .Release.Namespace | quote }}
{{- end }}

{{- /*
What the operator's pods are found by. Gateways let in the pods of this name.
*/ -}}
{{- define "auth-gateway.selector" -}}
app.kubernetes.io/name: auth-gateway-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "auth-gateway.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: auth-gateway
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | trimSuffix "." }}
{{- end }}

{{- define "auth-gateway.labels" -}}
{{ include "auth-gateway.selector" . }}
{{ include "auth-gateway.commonLabels" . }}
{{- end }}

{{- /* An image, of a dict of image and context. */ -}}
{{- define "auth-gateway.image" -}}
{{- .image.repository -}}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .context.Chart.AppVersion }}{{ end -}}
{{- end }}

{{- /*
The pods, the way the standard "restricted" wants them, with what podSecurityContext
adds and replaces. OpenShift assigns users by namespace, and refuses others.
*/ -}}
{{- define "auth-gateway.podSecurityContext" -}}
{{- $context := dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- if not (.Capabilities.APIVersions.Has "security.openshift.io/v1") -}}
{{- $context = merge $context (dict "runAsUser" 65532 "runAsGroup" 65532) -}}
{{- end -}}
{{- range $key, $value := .Values.podSecurityContext -}}
{{- if kindIs "invalid" $value }}{{ $_ := unset $context $key }}{{ else }}{{ $_ := set $context $key $value }}{{ end -}}
{{- end -}}
{{- toYaml $context -}}
{{- end }}

{{- define "auth-gateway.securityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
{{- end }}

{{- /* What a schema cannot say plainly. */ -}}
{{- define "auth-gateway.check" -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository is not set: write where the operator's image is, such as registry.example.com/auth-gateway/operator" -}}
{{- end -}}
{{- if not .Values.serverImage.repository -}}
{{- fail "serverImage.repository is not set: write where the servers' image is, such as registry.example.com/auth-gateway/authserver" -}}
{{- end -}}
{{- range $key, $_ := .Values.podLabels -}}
{{- if hasPrefix "app.kubernetes.io/" $key -}}
{{- fail (printf "podLabels: %s is the chart's own: choose a label with another prefix" $key) -}}
{{- end -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false: write the name of the account that there is to serviceAccount.name" -}}
{{- end -}}
{{- if not .Values.metrics.enabled -}}
{{- if .Values.metrics.serviceMonitor.enabled -}}
{{- fail "metrics.serviceMonitor.enabled needs metrics: write metrics.enabled: true too, or leave the ServiceMonitor out" -}}
{{- end -}}
{{- if .Values.metrics.readers -}}
{{- fail "metrics.readers have nothing to read: write metrics.enabled: true too, or leave them out" -}}
{{- end -}}
{{- end -}}
{{- end }}
