"""``python -m mvx_logger.cli``: the ``mvx-logger`` command of this very interpreter."""

from .main import main

main()
