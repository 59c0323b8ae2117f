"""Verifies one message by the official `standardwebhooks` package: on standard input its secret, headers and body."""

import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError


def main():
    given = json.load(sys.stdin)
    try:
        seen = {"ok": True, "payload": Webhook(given["secret"]).verify(given["body"], given["headers"])}
    except WebhookVerificationError as error:
        seen = {"ok": False, "error": str(error)}
    print(json.dumps(seen))


main()
