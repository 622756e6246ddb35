"""What runs on the device: standard library, numpy and a TFLite interpreter, from Python 3.9 on.

The host reads this package as bytes, packs it into one file and starts that file on the device.
"""
