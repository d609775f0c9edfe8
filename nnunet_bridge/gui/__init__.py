"""The page: a local web server whose buttons run the commands.

It starts commands as processes of their own and reads files through `pipeline`; no
module below knows it. It needs the extra ``gui`` (Starlette and uvicorn).
"""
