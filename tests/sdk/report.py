"""What the scripts beside this one have in common: options, and one JSON line that says what the SDK saw."""

import argparse
import json
import sys


def options(description, prompt="Say hello"):
    """The options of every script."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--api-key", required=True)
    parser.add_argument("--model", default="demo-model")
    parser.add_argument("--prompt", default=prompt)
    parser.add_argument("--mode", choices=["plain", "stream"], default="plain")
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--retries", type=int, default=2, help="the SDK's own default is 2")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds")
    parser.add_argument("--header", action="append", default=[], metavar="NAME=VALUE")
    return parser


def client_options(args):
    """What both SDKs' clients take."""
    return {
        "base_url": args.base_url,
        "api_key": args.api_key,
        "max_retries": args.retries,
        "timeout": args.timeout,
        "default_headers": dict(pair.split("=", 1) for pair in args.header),
    }


def dump(model):
    """A part of an answer as plain JSON, or null."""
    return None if model is None else model.model_dump(mode="json")


def run(call, errors):
    """Prints what `call` returns, or the SDK's error. Any other exception is this script's own fault and ends it."""
    try:
        seen = {"ok": True, **call()}
    except errors as error:
        response = getattr(error, "response", None)
        seen = {
            "ok": False,
            "exception": type(error).__name__,
            "message": str(error),
            "status": getattr(error, "status_code", None),
            "code": getattr(error, "code", None),
            "type": getattr(error, "type", None),
            "request_id": getattr(error, "request_id", None),
            "body": getattr(error, "body", None),
            "headers": {} if response is None else dict(response.headers),
        }
    json.dump(seen, sys.stdout)
    print()


def answer_of(raw):
    """What every raw response tells besides its content."""
    return {"headers": dict(raw.headers), "retries": raw.retries_taken}
