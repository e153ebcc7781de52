"""Write a network with random weights: python -m bfcn_kernels.make_model --net r50 r50.gguf"""

import argparse
from pathlib import Path

from bfcn_kernels.gguf_io import Metadata, Model, write
from bfcn_kernels.nets import resnet_bfcn, toy


def main() -> None:
    parser = argparse.ArgumentParser(description='Write a packed model with random weights.')
    parser.add_argument('--net', choices=('toy', 'r18', 'r50'), default='r50')
    parser.add_argument('--w', type=int, default=1, help='weight bits (not for toy)')
    parser.add_argument('--a', type=int, default=2, help='activation bits (not for toy)')
    parser.add_argument('--classes', type=int, default=19)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--thresholds', action='store_true', help='store them in the file too')
    parser.add_argument('out', type=Path)
    args = parser.parse_args()
    if args.net == 'toy':
        graph, bits = toy(args.seed, classes=args.classes), {}
    else:
        depth = int(args.net[1:])
        graph = resnet_bfcn(depth, args.w, args.a, args.classes, args.seed)
        bits = {'weight_bits': args.w, 'activation_bits': args.a}
    classes = tuple(f'class {index}' for index in range(args.classes))
    write(args.out, Model(graph, Metadata(args.net, classes, **bits)), args.thresholds)
    print(f'{args.out}: {len(graph.ops)} ops, {args.out.stat().st_size} bytes')


if __name__ == '__main__':
    main()
