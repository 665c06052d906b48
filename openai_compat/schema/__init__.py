"""Python types and signatures, and JSON Schema: what a type is as a schema, and values checked against it. No I/O."""
