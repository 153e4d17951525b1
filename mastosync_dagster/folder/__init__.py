"""A local folder, such as Mastodon's ``public/system``, as a storage with the requests of ``s3/client.py``."""
