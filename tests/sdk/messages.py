"""One message by the official `anthropic` client."""

import anthropic

import report


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def plain(client, request):
    raw = client.messages.with_raw_response.create(**request)
    message = raw.parse()
    return {
        **report.answer_of(raw),
        "id": message.id,
        "model": message.model,
        "text": text_of(message),
        "finish": message.stop_reason,
        "usage": report.dump(message.usage),
    }


def stream(client, request):
    """By the SDK's own accumulator, which is what fails if an event is missing."""
    with client.messages.stream(**request) as events:
        kinds = [event.type for event in events]
        message = events.get_final_message()
        headers = dict(events.response.headers)
    return {
        "headers": headers,
        "text": text_of(message),
        "finish": message.stop_reason,
        "events": kinds,
        "usage": report.dump(message.usage),
    }


def main():
    args = report.options(__doc__).parse_args()
    client = anthropic.Anthropic(**report.client_options(args))
    request = {
        "model": args.model,
        "max_tokens": args.max_tokens or 64,
        "messages": [{"role": "user", "content": args.prompt}],
    }
    call = stream if args.mode == "stream" else plain
    report.run(lambda: call(client, request), anthropic.AnthropicError)


main()
