# The loop of every judge: a line of standard input is a token, a line of standard
# output is the verdict. verify returns the subject, or raises.
import json
import os
import sys
import urllib.request

ISSUER, AUDIENCE = os.environ["ISSUER"], os.environ["AUDIENCE"]


def fetch(url):
    with urllib.request.urlopen(url, timeout=10) as reply:
        return json.load(reply)


def judge(verify):
    for line in sys.stdin:
        try:
            verdict = {"subject": verify(line.strip())}
        except Exception as error:  # a verdict, whatever the library raises
            verdict = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(verdict), flush=True)
