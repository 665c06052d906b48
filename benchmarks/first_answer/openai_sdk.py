import sys

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1], api_key="k")
answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
print(answer.choices[0].message.content, flush=True)
