"""What goes wrong on a cluster, drawn by a seed."""


class Chaos:
    def __init__(self, *_):
        pass

    def play(self, seconds):
        pass
