"""An answer that always parses: the server holds the model to the schema of a pydantic class, token by token.

    pip install openai
    gpt-oss serve                           # in another terminal; with openai/gpt-oss-20b behind it, the real one
    python examples/structured_output.py "The name is Ada. The city is London. The age is 36."

OPENAI_BASE_URL names another server. A bigger model also takes the right values from the text; that what comes is a
Person is the server's doing, whatever the model.
"""

import os
import sys

from openai import OpenAI
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    city: str
    age: int


def main(text: str) -> None:
    client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"), api_key="none")
    served = client.models.list().data[0].id
    response = client.responses.parse(model=served, input=f"Extract the data: {text}", text_format=Person)
    print(repr(response.output_parsed))


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "The name is Ada. The city is London. The age is 36.")
