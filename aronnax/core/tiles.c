/* Products of whole numbers with AMX and attention made of them, for `aronnax/core/tiles.py`, which says what each argument is.
 *
 * A number of 16 bits is 256 times a high byte plus a low one, both signed; one of 8 bits is a high byte alone.
 * Bytes lie in tiles of 1 KiB, as the processor multiplies them: of an input 16 rows and 64 columns, of a weight 16
 * outputs and 64 inputs, four inputs of an output side by side. The planes (high, low) of a tile follow each other,
 * then come the tiles along the inputs, which make a strip, then the strips along the rows or outputs.
 */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WITH_AMX __attribute__((target("amx-tile,amx-int8,avx512f,avx512bw,avx512vl,avx512dq")))

enum { EDGE = 16, DEPTH = 64, TILE = EDGE * DEPTH };
enum { NOTHING, RELU, SILU };
#define LARGEST 32639.0f
#define LOG2_E 1.44269504f

/* Bytes of a weight that are multiplied by all rows before the next ones: they stay in the second cache. */
enum { NEAR = 512 * 1024 };

/* Whether the system lends the tiles to this process, which has to ask for them. */
int aronnax_tiles_are_lent(void) {
    enum { ASK_FOR_STATE = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0;
}

static inline long ceiling(long count, long size) { return (count + size - 1) / size; }

/* The first `left` of sixteen numbers, which may be more than there are, or none. */
static inline __mmask16 first_of(long left) { return left >= 16 ? 0xffff : left > 0 ? (1 << left) - 1 : 0; }

/* --- inputs --- */

/* Sixteen whole numbers as bytes. */
WITH_AMX static inline void store_bytes(__m512i whole, int planes, int8_t *high, int8_t *low) {
    __m512i bytes = planes == 2 ? _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(128)), 8) : whole;
    _mm_store_si128((__m128i *)high, _mm512_cvtepi32_epi8(bytes));
    if (planes == 2) _mm_store_si128((__m128i *)low, _mm512_cvtepi32_epi8(whole));
}

WITH_AMX static void round_row(const float *row, long columns, int planes, int8_t *tiles, float *peak) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    /* As bits, magnitudes are in the order of the numbers, and what is not a number is the largest. */
    __m512i largest = _mm512_castps_si512(_mm512_set1_ps(1e-30f));
    for (long k = 0; k < columns; k += 16) {
        __m512i bits = _mm512_castps_si512(_mm512_maskz_loadu_ps(first_of(columns - k), row + k));
        largest = _mm512_max_epi32(largest, _mm512_and_si512(bits, magnitude));
    }
    int32_t found = _mm512_reduce_max_epi32(largest);
    memcpy(peak, &found, sizeof found);

    const __m512 scale = _mm512_set1_ps((planes == 2 ? LARGEST : 127.0f) / *peak);
    for (long k = 0; k < columns; k += DEPTH, tiles += planes * TILE)
        for (long part = 0; part < DEPTH; part += 16) {
            __m512 x = _mm512_maskz_loadu_ps(first_of(columns - k - part), row + k + part);
            store_bytes(_mm512_cvtps_epi32(_mm512_mul_ps(x, scale)), planes, tiles + part, tiles + TILE + part);
        }
}

void aronnax_round(const float *x, long rows, long columns, int planes, int threads, int8_t *tiles, float *peak) {
    long strip = ceiling(columns, DEPTH) * planes * TILE;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long row = 0; row < rows; row++)
        round_row(x + row * columns, columns, planes, tiles + row / EDGE * strip + row % EDGE * DEPTH, peak + row);
}

/* --- products --- */

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((packed)) Shape;

/* All eight tiles are whole ones. Not on the stack: compilers drop what they do not see the instruction read. */
static const Shape SHAPE = {
    .palette = 1, .bytes = {DEPTH, DEPTH, DEPTH, DEPTH, DEPTH, DEPTH, DEPTH, DEPTH},
    .rows = {EDGE, EDGE, EDGE, EDGE, EDGE, EDGE, EDGE, EDGE}};

typedef struct {
    const float *peak, *unit, *bias;
    float *out;
    long outputs, stride;
    int planes, then;
} Finish;

typedef int32_t Sums[EDGE * EDGE] __attribute__((aligned(64)));

/* 2 to a power in [-126, 126], right to a few roundings. */
WITH_AMX static inline __m512 power_of_two(__m512 power) {
    /* The power of the rest, which lies in [-1/2, 1/2], by its series. */
    static const float series[] = {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f};
    __m512 whole = _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 rest = _mm512_sub_ps(power, whole), found = _mm512_set1_ps(1.5403530e-4f);
    for (int i = 0; i < 6; i++) found = _mm512_fmadd_ps(found, rest, _mm512_set1_ps(series[i]));
    return _mm512_scalef_ps(found, whole);
}

/* x / (1 + exp(-x)). */
WITH_AMX static inline __m512 silu(__m512 x) {
    /* Below -80 it is as good as zero; powers beyond it would be too small for the processor to be fast with. */
    x = _mm512_max_ps(_mm512_set1_ps(-80.0f), x);
    __m512 power = _mm512_mul_ps(_mm512_min_ps(_mm512_set1_ps(80.0f), x), _mm512_set1_ps(-LOG2_E));
    __m512 below = _mm512_add_ps(power_of_two(power), _mm512_set1_ps(1.0f));
    /* 14 bits of 1 / below, then a step of Newton's. */
    __m512 inverse = _mm512_rcp14_ps(below);
    inverse = _mm512_mul_ps(inverse, _mm512_fnmadd_ps(below, inverse, _mm512_set1_ps(2.0f)));
    return _mm512_mul_ps(x, inverse);
}

/* One tile of outputs: its sums become floats at their place. */
WITH_AMX static void finish(const Finish *to, const Sums high, const Sums low, long row, long rows, long column) {
    __mmask16 inside = first_of(to->outputs - column);
    __m512 unit = _mm512_maskz_loadu_ps(inside, to->unit + column);
    __m512 bias = to->bias ? _mm512_maskz_loadu_ps(inside, to->bias + column) : _mm512_setzero_ps();
    const __m512 byte = _mm512_set1_ps(256.0f);
    for (long i = 0; i < rows; i++) {
        __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(high + i * EDGE));
        if (to->planes == 2) {
            __m512 rest = _mm512_cvtepi32_ps(_mm512_load_si512(low + i * EDGE));
            sum = _mm512_fmadd_ps(sum, byte, rest);
        }
        sum = _mm512_fmadd_ps(sum, _mm512_mul_ps(unit, _mm512_set1_ps(to->peak[row + i])), bias);
        /* The second of the two is taken where one is not a number. */
        if (to->then == RELU) sum = _mm512_max_ps(_mm512_setzero_ps(), sum);
        if (to->then == SILU) sum = silu(sum);
        _mm512_mask_storeu_ps(to->out + (row + i) * to->stride + column, inside, sum);
    }
}

/* Two strips of rows times one of outputs, `strip` bytes each -> sums high 0, low 0, high 1, low 1.
 *
 * Low bytes times low bytes are left out: they are worth what rounding to 16 bits costs.
 */
WITH_AMX static inline void multiply_strips(
    const int8_t *first, const int8_t *second, const int8_t *weight, long strip, int planes, Sums sums[4]) {
    /* What the tiles are loaded from has to be written by now, which the compiler is not told otherwise. */
    __asm__ volatile("" ::: "memory");
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long k = 0; k < strip; k += planes * TILE) {
        _tile_loadd(4, first + k, DEPTH);
        _tile_loadd(5, second + k, DEPTH);
        _tile_loadd(6, weight + k, DEPTH);
        if (planes == 2) _tile_loadd(7, weight + k + TILE, DEPTH);
        _tile_dpbssd(0, 4, 6);
        if (planes == 2) _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        if (planes == 2) {
            _tile_dpbssd(3, 5, 7);
            _tile_loadd(4, first + k + TILE, DEPTH);
            _tile_loadd(5, second + k + TILE, DEPTH);
            _tile_dpbssd(1, 4, 6);
            _tile_dpbssd(3, 5, 6);
        }
    }
    _tile_stored(0, sums[0], DEPTH);
    _tile_stored(1, sums[1], DEPTH);
    _tile_stored(2, sums[2], DEPTH);
    _tile_stored(3, sums[3], DEPTH);
}

/* Up to 32 rows of an input, whose strips of 16 lie `apart` bytes apart, and what becomes of their products. */
typedef struct {
    const int8_t *tiles;
    long apart, row, rows;
    const Finish *to;
} Rows;

WITH_AMX static inline void finish_rows(const Rows *given, Sums sums[4], long column) {
    long above = given->rows < EDGE ? given->rows : EDGE;
    finish(given->to, sums[0], sums[1], given->row, above, column);
    finish(given->to, sums[2], sums[3], given->row + EDGE, given->rows - above, column);
}

/* Times the strips of a weight from `begin` to `end`, `length` bytes of each.
 *
 * Sums lie for a round before they are read: the processor goes on multiplying until they have arrived.
 */
WITH_AMX static inline void multiply_rows(
    const Rows *given, const int8_t *weight, long length, long begin, long end, int planes) {
    Sums sums[2][4];
    const int8_t *second = given->tiles + (given->rows > EDGE) * given->apart;
    for (long at = begin; at < end; at++) {
        multiply_strips(given->tiles, second, weight + at * given->apart, length, planes, sums[at % 2]);
        if (at > begin) finish_rows(given, sums[1 - at % 2], (at - 1) * EDGE);
    }
    if (begin < end) finish_rows(given, sums[(end - 1) % 2], (end - 1) * EDGE);
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

/* --- attention --- */

typedef struct {
    const float *query, *key, *value, *near, *far;
    const int8_t *positions;
    const float *worth;
    const int64_t *lengths;
    float *out, scale;
    long batch, frames, heads, width, distances, centre;
} Attention;

/* Where one head keeps what it makes; the tiles of `queries` rows are the last. */
typedef struct {
    int8_t *keys, *values, *near, *far, *weights;
    float *keys_worth, *values_worth, *scores, *bands, *sum;
    float near_peak[2 * EDGE], far_peak[2 * EDGE], normal[2 * EDGE];
    long strip, across, columns, band;
} Room;

/* Lays a room out from `start`, and says how many bytes it takes. */
static long lay_out(Room *room, long frames, long width, int8_t *start) {
    long strips = ceiling(frames, EDGE), parts = ceiling(width, EDGE);
    room->strip = ceiling(width, DEPTH) * 2 * TILE;
    room->across = ceiling(frames, DEPTH) * 2 * TILE;
    room->columns = strips * EDGE;
    room->band = room->columns + 3 * EDGE;
    int8_t *at = start;
    room->keys = at, at += strips * room->strip;
    room->values = at, at += parts * room->across;
    room->near = at, at += 2 * room->strip;
    room->far = at, at += 2 * room->strip;
    room->weights = at, at += 2 * room->across;
    float *next = (float *)at;
    room->keys_worth = next, next += room->columns;
    room->values_worth = next, next += parts * EDGE;
    room->scores = next, next += 2 * EDGE * room->columns;
    room->bands = next, next += 2 * EDGE * room->band;
    room->sum = next, next += ceiling(width, EDGE) * EDGE;
    return (int8_t *)next - start;
}

long aronnax_attention_room(long frames, long width) {
    Room room;
    return ceiling(lay_out(&room, frames, width, 0), 64) * 64;
}

/* Inputs of 16 rows become a weight of 16 outputs. */
static void turn(int8_t *tile) {
    int32_t from[EDGE][EDGE], (*to)[EDGE] = (int32_t(*)[EDGE])tile;
    memcpy(from, tile, TILE);
    for (int i = 0; i < EDGE; i++)
        for (int j = 0; j < EDGE; j++) to[i][j] = from[j][i];
}

/* The keys as outputs of a weight. */
WITH_AMX static void take_keys(const Attention *a, const float *key, long seen, Room *room) {
    for (long j = 0; j < seen; j++) {
        int8_t *tiles = room->keys + j / EDGE * room->strip + j % EDGE * DEPTH;
        round_row(key + j * a->heads * a->width, a->width, 2, tiles, room->keys_worth + j);
        room->keys_worth[j] *= a->scale * LOG2_E * 256.0f / (LARGEST * LARGEST);
    }
    for (long tile = 0; tile < ceiling(seen, EDGE) * room->strip; tile += TILE) turn(room->keys + tile);
}

/* The values as inputs of a weight, whose outputs are the columns of the values. */
WITH_AMX static void take_values(const Attention *a, const float *value, long seen, Room *room) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff), half = _mm512_set1_epi32(128), byte = _mm512_set1_epi32(255);
    long stride = a->heads * a->width;
    for (long column = 0; column < a->width; column += EDGE) {
        __mmask16 inside = first_of(a->width - column);
        __m512i largest = _mm512_castps_si512(_mm512_set1_ps(1e-30f));
        for (long j = 0; j < seen; j++) {
            __m512i bits = _mm512_castps_si512(_mm512_maskz_loadu_ps(inside, value + j * stride + column));
            largest = _mm512_max_epi32(largest, _mm512_and_si512(bits, magnitude));
        }
        __m512 peak = _mm512_castsi512_ps(largest), scale = _mm512_div_ps(_mm512_set1_ps(LARGEST), peak);
        __m512 worth = _mm512_mul_ps(peak, _mm512_set1_ps(256.0f / (LARGEST * LARGEST)));
        _mm512_storeu_ps(room->values_worth + column, worth);
        int8_t *tiles = room->values + column / EDGE * room->across;
        for (long j = 0; j < seen; j += DEPTH, tiles += 2 * TILE)
            for (long four = 0; four < DEPTH; four += 4) {
                __m512i high = _mm512_setzero_si512(), low = high;
                for (int k = 0; k < 4; k++) {
                    long row = j + four + k;
                    __mmask16 there = row < seen ? inside : 0;
                    __m512 x = _mm512_maskz_loadu_ps(there, value + row * stride + column);
                    __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(x, scale));
                    __m512i above = _mm512_srai_epi32(_mm512_add_epi32(whole, half), 8);
                    __m128i place = _mm_cvtsi32_si128(8 * k);
                    high = _mm512_or_si512(high, _mm512_sll_epi32(_mm512_and_si512(above, byte), place));
                    low = _mm512_or_si512(low, _mm512_sll_epi32(_mm512_and_si512(whole, byte), place));
                }
                _mm512_store_si512(tiles + four * EDGE, high);
                _mm512_store_si512(tiles + TILE + four * EDGE, low);
            }
    }
}

/* Up to 32 rows plus a bias, in tiles. */
WITH_AMX static void take_queries(
    const Attention *a, const float *query, const float *bias, long rows, Room *room, int8_t *tiles, float *peak) {
    for (long i = 0; i < rows; i++) {
        const float *row = query + i * a->heads * a->width;
        for (long k = 0; bias && k < a->width; k++) room->sum[k] = row[k] + bias[k];
        round_row(bias ? room->sum : row, a->width, 2, tiles + i / EDGE * room->strip + i % EDGE * DEPTH, peak + i);
    }
}

/* What one query gives to each key, in tiles: 2 to its score, what distances add included, less the largest. */
WITH_AMX static void weigh(float *scores, const float *band, long seen, int8_t *tiles, float *normal) {
    __m512 largest = _mm512_set1_ps(-3.4e38f), sum = _mm512_setzero_ps();
    for (long j = 0; j < seen; j += 16) {
        __mmask16 inside = first_of(seen - j);
        __m512 score = _mm512_loadu_ps(scores + j);
        if (band) score = _mm512_add_ps(score, _mm512_maskz_loadu_ps(inside, band + j));
        _mm512_storeu_ps(scores + j, score);
        largest = _mm512_mask_max_ps(largest, inside, largest, score);
    }
    const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    for (long j = 0; j < ceiling(seen, DEPTH) * DEPTH; j += 16) {
        __mmask16 inside = first_of(seen - j);
        __m512 power = _mm512_sub_ps(_mm512_maskz_loadu_ps(inside, scores + j), top);
        __m512 weight = power_of_two(_mm512_max_ps(_mm512_set1_ps(-126.0f), power));
        weight = _mm512_maskz_mov_ps(inside, weight);
        sum = _mm512_add_ps(sum, weight);
        int8_t *to = tiles + j / DEPTH * 2 * TILE + j % DEPTH;
        store_bytes(_mm512_cvtps_epi32(_mm512_mul_ps(weight, _mm512_set1_ps(LARGEST))), 2, to, to + TILE);
    }
    *normal = 1.0f / _mm512_reduce_add_ps(sum);
}

WITH_AMX static void attend_head(const Attention *a, long row, long head, Room *room) {
    long stride = a->heads * a->width, start = row * a->frames * stride + head * a->width, seen = a->lengths[row];
    if (seen < 1) {
        for (long i = 0; i < a->frames; i++) memset(a->out + start + i * stride, 0, a->width * sizeof(float));
        return;
    }
    take_keys(a, a->key + start, seen, room);
    take_values(a, a->value + start, seen, room);
    for (long i = 0; i < a->frames; i += 2 * EDGE) {
        long rows = a->frames - i < 2 * EDGE ? a->frames - i : 2 * EDGE;
        const float *query = a->query + start + i * stride;
        take_queries(a, query, a->near ? a->near + head * a->width : 0, rows, room, room->near, room->near_peak);
        Finish to = {room->near_peak, room->keys_worth, 0, room->scores, room->columns, room->columns, 2, NOTHING};
        multiply_rows(&(Rows){room->near, room->strip, 0, rows, &to}, room->keys, room->strip, 0, ceiling(seen, EDGE), 2);
        /* Key j is at distance `centre` - i + j in the table of row i. */
        long first = a->positions ? (a->centre - i - rows + 1) / EDGE : 0;
        if (a->positions) {
            long last = (a->centre - i + seen - 1) / EDGE;
            take_queries(a, query, a->far + head * a->width, rows, room, room->far, room->far_peak);
            for (long k = 0; k < rows; k++) room->far_peak[k] *= LOG2_E;
            const float *worth = a->worth + head * a->distances + first * EDGE;
            to = (Finish){room->far_peak, worth, 0, room->bands, room->band, room->band, 2, NOTHING};
            const int8_t *table = a->positions + (head * a->distances / EDGE + first) * room->strip;
            multiply_rows(&(Rows){room->far, room->strip, 0, rows, &to}, table, room->strip, 0, last - first + 1, 2);
        }
        for (long k = 0; k < rows; k++) {
            float *band = a->positions ? room->bands + k * room->band + a->centre - i - k - first * EDGE : 0;
            int8_t *tiles = room->weights + k / EDGE * room->across + k % EDGE * DEPTH;
            weigh(room->scores + k * room->columns, band, seen, tiles, room->normal + k);
        }
        to = (Finish){room->normal, room->values_worth, 0, a->out + start + i * stride, a->width, stride, 2, NOTHING};
        long length = ceiling(seen, DEPTH) * 2 * TILE, parts = ceiling(a->width, EDGE);
        multiply_rows(&(Rows){room->weights, room->across, 0, rows, &to}, room->values, length, 0, parts, 2);
    }
}

WITH_AMX static void attend_part(const Attention *a, int part, int parts, int8_t *start) {
    _tile_loadconfig(&SHAPE);
    Room room;
    lay_out(&room, a->frames, a->width, start);
    for (long item = part; item < a->batch * a->heads; item += parts)
        attend_head(a, item / a->heads, item % a->heads, &room);
    _tile_release();
}

void aronnax_attend(const Attention *a, int threads, int8_t *rooms) {
    long size = aronnax_attention_room(a->frames, a->width);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int part = 0; part < threads; part++) attend_part(a, part, threads, rooms + part * size);
}
