"""An HTTP/1.1 streaming relay, close to the wire."""
