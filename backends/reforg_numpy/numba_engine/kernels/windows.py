"""What a convolution's kernel covers, as rows of a product: an output position is a row, its window the columns."""

from numba import njit

from reforg_numpy.numba_engine.codes import MAPS
from reforg_numpy.numba_engine.kernels.functions import single
from reforg_numpy.numba_engine.kernels.rows import place_of
from reforg_numpy.numba_engine.kernels.simd import load, splat, store
from reforg_numpy.numba_engine.shapes import CHUNK, DEPTH, LANES


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
    if count % LANES == 0 and column % LANES == 0:
        for c in range(0, count, LANES):
            store(memory, row + place_of(column + c, leap), splat(single(0.0)))
    else:
        for c in range(count):
            memory[row + place_of(column + c, leap)] = single(0.0)


@njit
def gather_windows(step, memory, images, low, high, target, leap):
    """The windows at the positions low to high, of maps or of images, as rows DEPTH apart."""
    across, down = step.out_width, step.out_height
    image, y, x = low // (across * down), low // across % down, low % across
    for _position in range(low, high):
        top, left = y * step.stride - step.padding, x * step.stride - step.padding
        if step.before == MAPS:
            window_of_maps(step, memory, image, top, left, target, leap)
        else:
            window_of_images(step, images, memory, image, top, left, target, leap)
        target += DEPTH
        x += 1
        if x == across:
            y, x = y + 1, 0
        if y == down:
            image, y = image + 1, 0


@njit
def window_of_images(step, images, memory, image, top, left, row, leap):
    """A window of images [B, C, H, W], its columns in the order of the weights: channels, lines, pixels."""
    size = step.size
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
def window_of_maps(step, memory, image, top, left, row, leap):
    """A window of maps whose pixels are rows: lines, pixels, channels."""
    low, high = max(0, -left), min(step.size, step.width - left)
    for y in range(step.size):
        line, column = top + y, y * step.size * step.channels
        if line < 0 or line >= step.height:
            put_zeros(step.size * step.channels, memory, row, column, leap)
        else:
            source = step.source + ((image * step.height + line) * step.width + left) * step.source_pitch
            put_pixels(step, memory, source, low, high, row, column, leap)
            if low > 0 or high < step.size:
                put_zeros(low * step.channels, memory, row, column, leap)
                put_zeros((step.size - high) * step.channels, memory, row, column + high * step.channels, leap)


@njit
def put_pixels(step, memory, source, low, high, row, column, leap):
    """The pixels low to high of a window's line: at once, where there is nothing between them."""
    channels, pitch = step.channels, step.source_pitch
    if channels == pitch:
        put_channels(memory, source + low * pitch, (high - low) * channels, row, column + low * channels, leap)
    else:
        for x in range(low, high):
            put_channels(memory, source + x * pitch, channels, row, column + x * channels, leap)


@njit
def put_channels(memory, source, count, row, column, leap):
    """Numbers into the columns from `column`, which whole vectors begin at where there are but whole ones."""
    if count % LANES or column % LANES:
        for c in range(count):
            memory[row + place_of(column + c, leap)] = memory[source + c]
        return
    while count > 0:
        some = min(count, CHUNK - column % CHUNK)
        place = row + place_of(column, leap)
        for c in range(0, some, LANES):
            store(memory, place + c, load(memory, source + c))
        source, column, count = source + some, column + some, count - some
