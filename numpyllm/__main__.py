"""python -m numpyllm is the command numpyllm."""

import sys

from .cli.main import main

sys.exit(main())
