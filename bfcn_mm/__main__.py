from bfcn_mm.cli import main

if __name__ == '__main__':  # not in the worker processes that it starts
    raise SystemExit(main())
