"""Python types and signatures, and JSON Schema: what a type is as a schema, and values checked against it. No I/O.

``types`` is the way in for a type, ``signature`` for a function, ``raw_schema`` for a schema of the user's own.

- ``reader`` reads annotations and classes into ``nodes``; ``annotated`` knows what stands in ``Annotated``,
  ``parameters`` what can be called with what, ``pydantic_types`` what only Pydantic knows.
- ``validation`` walks over a value and its type, ``likeness`` tells which member of a union was meant, ``problems``
  says what is wrong and where.
- ``strict`` is OpenAI's subset of JSON Schema, ``formats`` and ``js_pattern`` are what JSON Schema says of text.
- ``json_value`` goes the other way: Python values as JSON.
"""
