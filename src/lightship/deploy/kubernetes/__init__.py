"""Plain Kubernetes resources, and the same as a kustomize base with overlays. Nothing here talks to a cluster."""
