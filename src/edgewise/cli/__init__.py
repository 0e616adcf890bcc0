"""The command line: parse, call the library, print."""

from edgewise.cli._app import main as main
