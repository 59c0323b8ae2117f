"""Calls by the official clients that are refused, one after the other: what each exception says, as a list."""

import argparse
import json

import anthropic
import openai


def seen(call, errors):
    try:
        call()
    except errors as error:
        return {
            "exception": type(error).__name__,
            "status": getattr(error, "status_code", None),
            "code": getattr(error, "code", None),
            "type": getattr(error, "type", None),
            "body": getattr(error, "body", None),
            "headers": dict(error.response.headers),
        }
    return {"exception": None}


def chat(at, key, model, stream):
    client = openai.OpenAI(base_url=f"{at}/v1", api_key=key, max_retries=0)
    messages = [{"role": "user", "content": "Say hello"}]
    return seen(
        lambda: client.chat.completions.create(model=model, messages=messages, stream=stream),
        openai.APIStatusError,
    )


def message(at, key, model):
    client = anthropic.Anthropic(base_url=at, api_key=key, max_retries=0)
    messages = [{"role": "user", "content": "Say hello"}]
    return seen(
        lambda: client.messages.create(model=model, messages=messages, max_tokens=9),
        anthropic.APIStatusError,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--api-key", help="not used: each call has its own")
    parser.add_argument("calls", nargs="+", metavar="KEY=MODEL")
    args = parser.parse_args()
    at = args.base_url.removesuffix("/v1")
    answers = []
    for call in args.calls:
        key, model = call.split("=", 1)
        answers.append(
            {
                "plain": chat(at, key, model, False),
                "stream": chat(at, key, model, True),
                "message": message(at, key, model),
            }
        )
    print(json.dumps(answers))


main()
