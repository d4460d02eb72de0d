"""One call of `work`, and what is called inside it: email, json and docutils.

program.py told: print what the event `calls` says. program.py counted: count without autoprof, as `counted.py` does, and
print [file, line, name, target, generator-like?, calls, primitive calls]; from 3.12 on Python functions only, and no
primitive calls.
"""

import collections
import cProfile
import email
import email.policy
import inspect
import json
import re
import sys
from email.message import EmailMessage

import blinker
from docutils.core import publish_string

RST = "Title\n=====\n\n" + "".join(
    f"Part {n}\n--------\n\nSome *emphasis*, **strong**, ``code``, a `link {n} <http://example.com/{n}>`_.\n\n"
    "- item one\n\n  - nested\n\n1. first\n\n.. note:: A note.\n\nTerm\n  Definition\n\n"
    for n in range(8)
)


def write_letter():
    letter = EmailMessage()
    letter["Subject"], letter["From"], letter["To"] = "Grüße", "a@example.org", "b@example.org, c@example.org"
    letter.set_content("text\n" * 40)
    letter.add_attachment(b"bytes" * 100, maintype="application", subtype="octet-stream", filename="x.bin")
    return bytes(letter)


def read_letter(data):
    letter = email.message_from_bytes(data, policy=email.policy.default)
    return [part.get_content_type() for part in letter.walk()], letter["to"].addresses


def to_and_from_json():
    tree = {"list": [1, 2.5, None, True, {"deep": [["x" * n for n in range(9)]] * 4}], "text": "ä" * 30}
    return json.loads(json.dumps(tree, indent=1, sort_keys=True))


def make_page():
    settings = {"datestamp": None, "report_level": 5, "syntax_highlight": "none"}
    return publish_string(RST, writer_name="html5", settings_overrides=settings)


def inside():
    read_letter(write_letter())
    to_and_from_json()
    return make_page()


def work():
    return inside()


def by_cprofile():
    profile = cProfile.Profile()
    profile.runcall(work)
    for entry in profile.getstats():
        primitive = entry.callcount - entry.reccallcount
        if isinstance(entry.code, str):
            if "_lsprof.Profiler" not in entry.code:
                name = re.sub(" of type object at 0x[0-9a-f]+", "", entry.code)  # an address is no name
                yield "~", 0, name, None, False, entry.callcount, primitive
        else:
            yield row(entry.code, entry.callcount, primitive)


def by_events():
    counts = collections.Counter()
    monitoring = sys.monitoring
    monitoring.use_tool_id(monitoring.PROFILER_ID, "inside")
    event = monitoring.events.PY_START
    monitoring.register_callback(monitoring.PROFILER_ID, event, lambda code, _: counts.update((code,)))
    monitoring.set_events(monitoring.PROFILER_ID, event)
    work()
    monitoring.set_events(monitoring.PROFILER_ID, 0)
    for code, count in counts.items():
        yield row(code, count, None)


def row(code, count, primitive):
    module = modules.get(code.co_filename)
    target = module and f"{module}:{code.co_qualname}"
    generator_like = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
    makes = bool(code.co_flags & generator_like)
    return code.co_filename, code.co_firstlineno, code.co_name, target, makes, count, primitive


told = []


def on_calls(sender, *, measurements, metadata):
    told.append({"calls": measurements["calls"], "callees": metadata["callees"]})


if __name__ == "__main__":
    for _ in range(3):
        inside()  # what only a first call does
    if sys.argv[1] == "told":
        blinker.signal("autoprof.calls").connect(on_calls)
        work()
        print(json.dumps(told))
    else:
        modules = {
            each.__file__: name for name, each in sys.modules.items() if getattr(each, "__file__", None)
        }
        print(json.dumps(list(by_cprofile() if sys.version_info < (3, 12) else by_events())))
