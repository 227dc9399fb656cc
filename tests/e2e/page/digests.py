"""Prints the digests of the script and of the style in an HTML file, as a Content-Security-Policy names them."""
import base64
import hashlib
import re
import sys

page = open(sys.argv[1], encoding="utf-8").read()
for name in ("script", "style"):
    text = re.search(f"<{name}>(.*?)</{name}>", page, re.S).group(1)
    print(name, "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())
