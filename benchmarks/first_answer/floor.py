import http.client
import sys
from urllib.parse import urlsplit

import msgspec

url = urlsplit(sys.argv[1])
connection = http.client.HTTPConnection(url.netloc)
connection.request(
    "POST",
    url.path + "/chat/completions",
    msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
    {"Authorization": "Bearer k", "Content-Type": "application/json"},
)
answer = msgspec.json.decode(connection.getresponse().read())
print(answer["choices"][0]["message"]["content"], flush=True)
