"""What the conductor does about the clusters that its jobs run on: makes, sizes and removes them, and keeps a
coordinator in each. See docs/kubernetes.md, "The provider"."""
