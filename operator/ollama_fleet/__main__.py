"""``python -m ollama_fleet ROLE``: the same as ``ollama-fleet ROLE``."""

import sys

from ollama_fleet.app import main

sys.exit(main())
