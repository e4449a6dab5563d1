#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Does a document of the kernel parse? Prints what docutils says of each FILE.

Sphinx is what builds the kernel's documentation, but it needs all of it, and
an hour. What breaks in a document is nearly always plain reStructuredText:
title levels, indentation, tables, references without a target. Directives
and roles that only Sphinx has are accepted here; the text inside of those
that hold text is parsed, the rest is not looked at.
"""
import io
import sys

from docutils import nodes, utils
from docutils.core import publish_doctree
from docutils.parsers.rst import Directive, directives, roles

# Of Sphinx's directives, those whose content is again a document.
HOLD_TEXT = {'note', 'c:function', 'c:type', 'c:struct', 'c:macro', 'c:enum', 'only',
             'seealso', 'versionadded', 'versionchanged', 'deprecated', 'flat-table'}


class Any(Directive):
    """A directive that docutils does not have: any argument, option, content."""
    has_content = True
    optional_arguments = 1
    final_argument_whitespace = True

    class AnyOption(dict):
        def __getitem__(self, key):
            return directives.unchanged

        def __bool__(self):
            return True

    option_spec = AnyOption()

    def run(self):
        node = nodes.container()
        if self.name in HOLD_TEXT:
            self.state.nested_parse(self.content, self.content_offset, node)
        return [node]


def any_role(name, rawtext, text, lineno, inliner, options=None, content=None):
    return [nodes.literal(rawtext, text)], []


def lookup(original, substitute):
    def find(name, language, document):
        found, messages = original(name, language, document)
        return (found, messages) if found else (substitute, [])
    return find


directives.directive = lookup(directives.directive, Any)
roles.role = lambda name, language, lineno, reporter, f=roles.role: (
    f(name, language, lineno, utils.Reporter('', 5, 5))[0] or any_role, [])
# These read files, or take options that docutils' own do not have.
for directive in ('include', 'figure', 'image', 'code', 'code-block', 'csv-table', 'literalinclude'):
    directives.register_directive(directive, Any)


def check(path):
    said = io.StringIO()
    with open(path, encoding='utf-8') as f:
        publish_doctree(f.read(), source_path=path, settings_overrides={
            'report_level': 2, 'halt_level': 5, 'warning_stream': said,
            'file_insertion_enabled': False, 'raw_enabled': False})
    print(said.getvalue(), end='')
    return said.getvalue()


if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(1 if [p for p in sys.argv[1:] if check(p)] else 0)
