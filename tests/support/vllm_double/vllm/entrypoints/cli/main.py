"""`vllm serve MODEL [--host H] [--port P]`: serves at once."""

import argparse

from vllm.serving import serve


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    print("vllm: serves", args.model, flush=True)
    serve(args.host, args.port, was_paused=False)


if __name__ == "__main__":
    main()
