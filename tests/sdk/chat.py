"""One chat completion by the official `openai` client."""

import openai

import report


def plain(client, request):
    raw = client.chat.completions.with_raw_response.create(**request)
    completion = raw.parse()
    choice = completion.choices[0]
    return {
        **report.answer_of(raw),
        "id": completion.id,
        "model": completion.model,
        "text": choice.message.content,
        "finish": choice.finish_reason,
        "choices": len(completion.choices),
        "usage": report.dump(completion.usage),
    }


def stream(client, request):
    raw = client.chat.completions.with_raw_response.create(stream=True, **request)
    text, finish, usage, chunks, usage_chunks = "", None, None, 0, 0
    for chunk in raw.parse():
        chunks += 1
        if not chunk.choices:
            usage_chunks += 1
        for choice in chunk.choices:
            if choice.index == 0:
                text += choice.delta.content or ""
            finish = choice.finish_reason or finish
        usage = chunk.usage or usage
    return {
        **report.answer_of(raw),
        "text": text,
        "finish": finish,
        "chunks": chunks,
        "usage_chunks": usage_chunks,
        "usage": report.dump(usage),
    }


def main():
    parser = report.options(__doc__)
    parser.add_argument("--include-usage", action="store_true", help="ask for the usage of a stream")
    parser.add_argument("--n", type=int)
    args = parser.parse_args()
    client = openai.OpenAI(**report.client_options(args))
    request = {"model": args.model, "messages": [{"role": "user", "content": args.prompt}]}
    if args.max_tokens is not None:
        request["max_tokens"] = args.max_tokens
    if args.n is not None:
        request["n"] = args.n
    if args.include_usage:
        request["stream_options"] = {"include_usage": True}
    call = stream if args.mode == "stream" else plain
    report.run(lambda: call(client, request), openai.OpenAIError)


main()
