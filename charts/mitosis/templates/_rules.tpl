{{/*
Everything the operator may do in a namespace that it serves: the one list, for the Roles and for the ClusterRole.
Neither wildcards nor pods/exec; Secrets can be read by name and cannot be listed.
*/}}
{{- define "mitosis.rules" -}}
# The migrations themselves. Patch, for the finalizer.
- apiGroups: [pgmitosis.dev]
  resources: [clustermigrations]
  verbs: [get, list, watch, patch]
# Intents are recorded here before they are acted upon; update fails on a stale resourceVersion.
- apiGroups: [pgmitosis.dev]
  resources: [clustermigrations/status]
  verbs: [get, patch, update]
# Owner references with blockOwnerDeletion, where the admission plugin OwnerReferencesPermissionEnforcement is on.
- apiGroups: [pgmitosis.dev]
  resources: [clustermigrations/finalizers]
  verbs: [update]
# Credentials and certificates that a migration names.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
# Members of the target: configuration, addresses, data, identity. ConfigMaps also carry the routing to HAProxy.
- apiGroups: [""]
  resources: [configmaps, services, persistentvolumeclaims, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
# Members and HAProxy pods are observed; patch labels the observed role; delete restarts a member.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
# Progress of a clone and the reason of its failure.
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# One StatefulSet per member of the target; managed HAProxy.
- apiGroups: [apps]
  resources: [statefulsets, deployments]
  verbs: [get, list, watch, create, patch, delete]
# One clone per member of the target.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
# What the agent beside HAProxy may do: get, list and watch its ConfigMap. Kubernetes lets the operator grant no more
# than it holds itself.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, create, patch, delete]
# Managed HAProxy survives a drain.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, create, patch, delete]
# Every transition is an Event; patch counts repetitions.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
