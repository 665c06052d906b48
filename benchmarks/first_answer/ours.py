import sys

from openai_compat import Client

client = Client(sys.argv[1], api_key="k", model="m")
print(client.chat("hi").text, flush=True)
