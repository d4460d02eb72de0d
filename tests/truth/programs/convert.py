"""Convert a reStructuredText file to HTML with docutils: program.py SOURCE DESTINATION."""

import sys

from docutils.core import publish_file

settings = {"datestamp": None, "report_level": 5, "syntax_highlight": "none"}
publish_file(
    source_path=sys.argv[1], destination_path=sys.argv[2], writer_name="html5", settings_overrides=settings
)
