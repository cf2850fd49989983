"""The edge to Kubernetes: client, informers, work queue, leader election, events."""
