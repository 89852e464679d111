"""``python -m bqc.cli``, the same as ``bqc``."""

from __future__ import annotations

import sys

from bqc.cli import main

sys.exit(main())
