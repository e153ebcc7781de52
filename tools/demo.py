import _door

if __name__ == '__main__':
    _door.enter_lab('demo')
