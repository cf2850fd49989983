"""One example of every kind, for the reference; the tests hand them to an API server."""

from typing import Final

OLLAMA_DEPLOYMENT: Final = """\
apiVersion: ollamafleet.io/v1alpha1
kind: OllamaDeployment
metadata:
  name: chat
spec:
  modelSets:
    - name: assistants
  version: 0.32.3
  replicas: 2
  profile: chat
  hardware:
    gpu:
      count: 1
      minMemory: 24Gi
  tuning:
    kvCacheType: q8_0
    flashAttention: true
    extraEnv:
      - name: OLLAMA_DEBUG
        value: "1"
  storage:
    cache:
      type: Node
      path: /var/lib/ollama-fleet
  readiness:
    policy: VRAM
    timeout: 15m
  placement:
    nodeSelector:
      pool: gpu
    tolerations:
      - key: nvidia.com/gpu
        operator: Exists
        effect: NoSchedule
"""

MODEL_SET: Final = """\
apiVersion: ollamafleet.io/v1alpha1
kind: ModelSet
metadata:
  name: assistants
spec:
  models:
    - name: chat
      model: llama3.1:8b
      contextLength: 8192
      parallel: 4
      priority: 10
      modelfile:
        parameters:
          temperature: 0.2
          stop: ["</answer>"]
        system: You answer in one sentence.
    - name: coder
      model: qwen2.5-coder:7b
      residency: OnDemand
      keepAlive: 30m
"""

NODE_VRAM_REPORT: Final = """\
apiVersion: ollamafleet.io/v1alpha1
kind: NodeVRAMReport
metadata:
  name: gpu-node-1
spec:
  retain:
    - digest: sha256:6a0746a1ec1aef3e7ec53868f220ff6e389f6f8ef87a01d77c96807de94ca2aa
      namespace: team-a
"""
