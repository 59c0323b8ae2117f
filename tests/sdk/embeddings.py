"""One embedding by the official `openai` client."""

import openai

import report


def embed(client, args):
    raw = client.embeddings.with_raw_response.create(model=args.model, input=args.prompt)
    answer = raw.parse()
    return {
        **report.answer_of(raw),
        "model": answer.model,
        "dimensions": [len(item.embedding) for item in answer.data],
        "usage": report.dump(answer.usage),
    }


def main():
    args = report.options(__doc__).parse_args()
    client = openai.OpenAI(**report.client_options(args))
    report.run(lambda: embed(client, args), openai.OpenAIError)


main()
