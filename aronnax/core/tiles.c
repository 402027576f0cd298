/* Inputs rounded to whole numbers and linear layers of them, for `tiles.py`, which says what each argument is. */

#include <sys/syscall.h>
#include <unistd.h>

#include "tiles.h"

/* Bytes of a weight that are multiplied by all rows before the next ones: they stay in the second cache. */
enum { NEAR = 512 * 1024 };

/* Of the sources, so that the other side knows them to be those it was written for. */
uint32_t aronnax_tiles_mark(void) { return MARK; }

/* Whether the system lends the tiles to this process, which has to ask for them. */
int aronnax_tiles_are_lent(void) {
    enum { ASK_FOR_STATE = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0;
}

void aronnax_round(const float *x, long rows, long columns, int planes, int threads, int8_t *tiles, float *peak) {
    long strip = ceiling(columns, DEPTH) * planes * TILE;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long row = 0; row < rows; row++)
        round_row(x + row * columns, columns, planes, tiles + row / EDGE * strip + row % EDGE * DEPTH, peak + row);
}

/* All rows times the strips of outputs from `begin` to `end`. */
WITH_AMX static void multiply_part(
    const int8_t *tiles, long rows, const int8_t *weight, long strip, long begin, long end, const Finish *to) {
    _tile_loadconfig(&SHAPE);
    long near = NEAR / strip > 0 ? NEAR / strip : 1;
    for (long from = begin; from < end; from += near)
        for (long row = 0; row < rows; row += 2 * EDGE) {
            long left = rows - row, until = from + near < end ? from + near : end;
            Rows given = {tiles + row / EDGE * strip, strip, row, left < 2 * EDGE ? left : 2 * EDGE, to};
            /* Told apart here, so that the compiler makes a loop of each. */
            if (to->planes == 2)
                multiply_rows(&given, weight, strip, from, until, 2);
            else
                multiply_rows(&given, weight, strip, from, until, 1);
        }
    _tile_release();
}

void aronnax_multiply(
    const int8_t *tiles, const float *peak, long rows, long inputs, const int8_t *weight, const float *unit,
    const float *bias, long outputs, int planes, int then, int threads, float *out) {
    Finish to = {peak, unit, bias, out, outputs, outputs, planes, then};
    long strip = ceiling(inputs, DEPTH) * planes * TILE, strips = ceiling(outputs, EDGE);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int part = 0; part < threads; part++)
        multiply_part(tiles, rows, weight, strip, strips * part / threads, strips * (part + 1) / threads, &to);
}
