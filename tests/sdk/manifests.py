"""Reads YAML for the tests: as JSON, or against Istio's models, which must know every field."""

import argparse
import importlib
import json
import sys

import yaml


def model(document):
    """The class of a document's kind."""
    group, version = document["apiVersion"].split("/")
    name = group.removesuffix(".istio.io")
    module = importlib.import_module(f"cloudcoil.models.istio.{name}.{version}")
    return getattr(module, document["kind"])


def unknown(given, read, path):
    """The fields of a document that its model did not take over: it leaves out what it does not know."""
    if isinstance(given, dict) and isinstance(read, dict):
        for key, value in given.items():
            if key in read:
                yield from unknown(value, read[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for at, pair in enumerate(zip(given, read)):
            yield from unknown(*pair, f"{path}[{at}]")
    elif given != read:
        yield f"{path}: {given!r} became {read!r}"


def check(document):
    read = model(document).model_validate(document)
    read = read.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return [f"{document['kind']}{what}" for what in unknown(document, read, "")]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["json", "istio"])
    parser.add_argument("file")
    args = parser.parse_args()
    with open(args.file) as file:
        documents = list(yaml.safe_load_all(file))
    if args.what == "json":
        json.dump(documents, sys.stdout)
        return
    wrong = [what for document in documents for what in check(document)]
    if wrong:
        sys.exit("\n".join(wrong))


main()
