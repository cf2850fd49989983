"""The kopf shell: watch events become keys on the work queue."""
