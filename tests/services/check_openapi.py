"""Checks a description of an API: that it is one, and that it is that of what is answered.

Takes the document, a file of answers that a server gave, and a folder of golden requests and responses. An object in an
answer has no members but those of its schema, although clients are told to expect more in later versions.
"""

import json
import re
import sys
from pathlib import Path

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator


def closed(schema):
    """The same schema, whose objects have no members beside those that it names."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(part) for key, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        schema.setdefault("additionalProperties", False)
    return schema


class Description:
    def __init__(self, document):
        OpenAPIV31SpecValidator(document).validate()
        self.document = document
        self.components = closed(document["components"])
        patterns = {path: re.sub(r"\{[^}]*\}", "[^/]+", re.escape(path).replace(r"\{", "{").replace(r"\}", "}"))
                    for path in document["paths"]}
        self.paths = {re.compile(pattern + "/?"): path for path, pattern in patterns.items()}
        self.seen = set()

    def validate(self, schema, value):
        whole = {**closed(schema), "components": self.components}
        Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)

    def resolved(self, part):
        if "$ref" in part:
            found = self.document
            for key in part["$ref"].removeprefix("#/").split("/"):
                found = found[key]
            return found
        return part

    def path_of(self, path):
        found = [known for pattern, known in self.paths.items() if pattern.fullmatch(path.split("?")[0])]
        assert len(found) == 1, f"{path} is described {len(found)} times"
        return found[0]

    def check(self, method, path, status, fields, body):
        operation = self.document["paths"][self.path_of(path)].get(method.lower())
        assert operation is not None, f"{method} {path} is not described"
        responses = operation["responses"]
        key = str(status) if str(status) in responses else f"{status // 100}XX"
        assert key in responses, f"{status} is not described of {method} {path}"
        response = self.resolved(responses[key])
        self.seen.add((operation.get("operationId"), key))
        for name, header in response.get("headers", {}).items():
            value = fields.get(name.lower())
            assert value is not None or not header.get("required"), f"{name} is missing"
            if value is not None and header["schema"].get("type") == "integer":
                value = int(value)
            if value is not None:
                self.validate(header["schema"], value)
        content = response.get("content")
        if method == "HEAD" or content is None:
            assert method == "HEAD" or not body, f"{status} of {method} {path} has a body"
            return
        media = fields["content-type"].split(";")[0]
        assert media in content, f"{media} is not described of {method} {path}, {status}"
        if media == "text/event-stream":
            self.check_events(body)
        self.validate(content[media]["schema"], json.loads(body) if media.endswith("json") else body)

    def check_events(self, body):
        """Of an event stream a schema tells nothing but that it is text."""
        for line in body.splitlines():
            if line.startswith("data: "):
                self.validate({"$ref": "#/components/schemas/Transfer"}, json.loads(line.removeprefix("data: ")))


def golden(folder):
    for file in sorted(folder.glob("*.request")):
        lines = file.read_text().split("\n")
        method, path = next(line for line in lines if not line.startswith("# ")).split(" ")[:2]
        head, _, body = file.with_suffix(".response").read_text().partition("\n\n")
        first, *fields = head.split("\n")
        yield file.name, method, path, int(first.split(" ")[1]), [field.split(": ", 1) for field in fields], body.strip()


def main():
    document, answers, folder = map(Path, sys.argv[1:])
    description = Description(json.loads(document.read_text()))
    given = [("", *(answer[name] for name in ["method", "path", "status", "fields", "body"]))
             for answer in json.loads(answers.read_text())]
    failed = 0
    for name, method, path, status, fields, body in [*given, *golden(folder)]:
        try:
            description.check(method, path, status, dict(fields), body)
        except Exception as error:
            failed += 1
            print(f"{name or 'the server'}: {method} {path}: {status}: {getattr(error, 'message', error)}")
    for path, item in description.document["paths"].items():
        for method, operation in item.items():
            if method in ["parameters", "head"]:
                continue
            for status in operation["responses"]:
                known = (operation["operationId"], status)
                if status[0] == "2" and status != "202" and known not in description.seen:
                    failed += 1
                    print(f"no answer {status} of {method} {path} was compared")
    print(f"{len(given)} answers of the server and {len(list(golden(folder)))} golden ones; {failed} failures")
    sys.exit(failed > 0)


main()
