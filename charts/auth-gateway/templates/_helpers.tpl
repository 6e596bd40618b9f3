{{- /*
The name of the operator's objects. It contains "operator", because the objects of
an AuthGateway in the same namespace have the name of that AuthGateway. It is also
the name of a Service, and so begins with a letter.
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
The name of objects outside the release's namespace, where releases in other
namespaces may have objects too. Neither part contains a colon.
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
The labels that select the operator's pods. The NetworkPolicies of AuthGateways
admit pods with this name.
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

{{- /* An image reference. The argument is a dict with image and context. */ -}}
{{- define "auth-gateway.image" -}}
{{- .image.repository -}}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .context.Chart.AppVersion }}{{ end -}}
{{- end }}

{{- /*
The securityContext of the pods. It complies with the standard "restricted" and is
merged with podSecurityContext. OpenShift assigns users per namespace and rejects
others, so none is set there.
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

{{- /* Checks that values.schema.json cannot express, or not with a clear message. */ -}}
{{- define "auth-gateway.check" -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository is not set: write the operator's image, such as registry.example.com/auth-gateway/operator" -}}
{{- end -}}
{{- if not .Values.serverImage.repository -}}
{{- fail "serverImage.repository is not set: write the server's image, such as registry.example.com/auth-gateway/authserver" -}}
{{- end -}}
{{- range $key, $_ := .Values.podLabels -}}
{{- if hasPrefix "app.kubernetes.io/" $key -}}
{{- fail (printf "podLabels: %s is reserved for the chart: choose a label with another prefix" $key) -}}
{{- end -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false: write the name of an existing account to serviceAccount.name" -}}
{{- end -}}
{{- if not .Values.metrics.enabled -}}
{{- if .Values.metrics.serviceMonitor.enabled -}}
{{- fail "a ServiceMonitor requires metrics: write metrics.enabled: true, or metrics.serviceMonitor.enabled: false" -}}
{{- end -}}
{{- if .Values.metrics.readers -}}
{{- fail "metrics.readers requires metrics: write metrics.enabled: true, or remove metrics.readers" -}}
{{- end -}}
{{- end -}}
{{- end }}
