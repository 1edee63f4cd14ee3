"""What a convolution's kernel covers, as rows of a product: an output position is a row, its window the columns."""

from numba import njit

from reforg_numpy.kernels.functions import single
from reforg_numpy.kernels.simd import load, store
from reforg_numpy.shapes import CHUNK, LANES


@njit
def place_of(column, leap):
    """Where a column is in a row in chunks."""
    return column // CHUNK * leap + column % CHUNK


@njit
def put_run(values, source, count, memory, row, column, leap):
    """Copy `count` numbers into the columns from `column`; what whole vectors write too much is written over, or not read."""
    place = row + place_of(column, leap)
    if column % CHUNK + count <= CHUNK and source + count + LANES <= len(values):
        for c in range(0, count, LANES):
            store(memory, place + c, load(values, source + c))
    else:
        for c in range(count):
            memory[row + place_of(column + c, leap)] = values[source + c]


@njit
def put_zeros(count, memory, row, column, leap):
    """Zeros in the columns from `column`."""
    for c in range(count):
        memory[row + place_of(column + c, leap)] = single(0.0)


@njit
def windows_of_images(step, images, memory, position, row, leap):
    """The window at one position of images [B, C, H, W], its columns in the order of the weights: channels, lines, pixels."""
    across, down, size = step.out_width, step.out_height, step.size
    image, rest = position // (across * down), position % (across * down)
    top, left = rest // across * step.stride - step.padding, rest % across * step.stride - step.padding
    first = (image * step.channels * step.height + top) * step.width + left
    inside = top >= 0 and left >= 0 and top + size <= step.height and left + size <= step.width
    last = first + ((step.channels - 1) * step.height + size - 1) * step.width
    if inside and size <= LANES and step.inner <= CHUNK and last + LANES <= len(images):
        for _channel in range(step.channels):
            for y in range(size):
                store(memory, row, load(images, first + y * step.width))
                row += size  # what the vector has too much is written over by the next
            first += step.height * step.width
    else:
        window_at_the_border(step, images, memory, image, top, left, row, leap)


@njit
def window_at_the_border(step, images, memory, image, top, left, row, leap):
    """Such a window of which some pixels are padding, or one of several chunks."""
    low, high = max(0, -left), min(step.size, step.width - left)
    for channel in range(step.channels):
        for y in range(step.size):
            column, line = (channel * step.size + y) * step.size, top + y
            if line < 0 or line >= step.height or high <= low:
                put_zeros(step.size, memory, row, column, leap)
            else:
                source = ((image * step.channels + channel) * step.height + line) * step.width + left
                put_zeros(low, memory, row, column, leap)
                put_run(images, source + low, high - low, memory, row, column + low, leap)
                put_zeros(step.size - high, memory, row, column + high, leap)


@njit
def windows_of_maps(step, memory, position, row, leap):
    """The window at one position of maps whose pixels are rows: lines, pixels, channels."""
    across, down = step.out_width, step.out_height
    image, rest = position // (across * down), position % (across * down)
    top, left = rest // across * step.stride - step.padding, rest % across * step.stride - step.padding
    first = step.source + image * step.height * step.width * step.source_pitch
    for y in range(step.size):
        for x in range(step.size):
            line, pixel = top + y, left + x
            column = (y * step.size + x) * step.channels
            if line < 0 or line >= step.height or pixel < 0 or pixel >= step.width:
                put_zeros(step.channels, memory, row, column, leap)
            else:
                source = first + (line * step.width + pixel) * step.source_pitch
                put_pixel(memory, source, step.channels, row, column, leap)


@njit
def put_pixel(memory, source, channels, row, column, leap):
    """One pixel's channels into the columns from `column`."""
    if channels % LANES:
        for c in range(channels):
            memory[row + place_of(column + c, leap)] = memory[source + c]
    elif column % CHUNK + channels <= CHUNK:
        place = row + place_of(column, leap)
        for c in range(0, channels, LANES):
            store(memory, place + c, load(memory, source + c))
    else:
        for c in range(0, channels, LANES):
            store(memory, row + place_of(column + c, leap), load(memory, source + c))
