import sys

import requests

session = requests.Session()
response = session.post(
    sys.argv[1] + "/chat/completions",
    headers={"Authorization": "Bearer k"},
    json={"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    timeout=60,
)
response.raise_for_status()
print(response.json()["choices"][0]["message"]["content"], flush=True)
