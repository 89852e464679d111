"""Makes ``tests.support`` importable.

With pytest's import mode "append" (pyproject.toml) this folder's parent goes to the end of the search path:
an installed bqc comes before the source tree, so ``pytest`` tests what ``pip install`` built, kernel library
included. Without one, or with ``python -m pytest``, it tests the source tree and the newest library under
build/.
"""
