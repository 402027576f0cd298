/* Attention, whose scores, positions, weights and values are numbers of 16 bits, for `tiles.attend`. */

#include "tiles.h"

typedef struct {
    const float *query, *key, *value, *near, *far;
    const int8_t *positions;
    const float *worth;
    const int64_t *lengths;
    float *out, scale;
    long batch, frames, heads, width, distances, centre;
} Attention;

/* Where a head's tiles and floats lie, and for up to 32 queries at a time their own; `strip` bytes of a strip of
 * queries or keys, `across` of weights or values, `columns` and `band` floats of a row of scores and bands. */
typedef struct {
    int8_t *keys, *values, *near, *far, *weights;
    float *keys_worth, *values_worth, *values_mean, *scores, *bands, *sum;
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
    room->values_mean = next, next += parts * EDGE;
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

/* Numbers less `mean`, and zeros where there are none. */
WITH_AMX static inline __m512 less(__mmask16 inside, const float *from, __m512 mean) {
    return _mm512_maskz_sub_ps(inside, _mm512_maskz_loadu_ps(inside, from), mean);
}

/* The values as inputs of a weight, whose outputs are the columns of the values, less the mean of each.
 *
 * What is common to all of them would be rounded alike in each of them, and sum up.
 */
WITH_AMX static void take_values(const Attention *a, const float *value, long seen, Room *room) {
    const __m512i half = _mm512_set1_epi32(128), byte = _mm512_set1_epi32(255);
    long stride = a->heads * a->width;
    for (long column = 0; column < a->width; column += EDGE) {
        __mmask16 inside = first_of(a->width - column);
        __m512 sum = _mm512_setzero_ps();
        for (long j = 0; j < seen; j++)
            sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(inside, value + j * stride + column));
        __m512 mean = _mm512_div_ps(sum, _mm512_set1_ps((float)seen));
        __m512i largest = smallest();
        for (long j = 0; j < seen; j++)
            largest = larger(largest, less(inside, value + j * stride + column, mean));
        __m512 peak = _mm512_castsi512_ps(largest), scale = _mm512_div_ps(_mm512_set1_ps(LARGEST), peak);
        __m512 worth = _mm512_mul_ps(peak, _mm512_set1_ps(256.0f / (LARGEST * LARGEST)));
        _mm512_storeu_ps(room->values_worth + column, worth);
        _mm512_storeu_ps(room->values_mean + column, mean);
        int8_t *tiles = room->values + column / EDGE * room->across;
        for (long j = 0; j < seen; j += DEPTH, tiles += 2 * TILE)
            for (long four = 0; four < DEPTH; four += 4) {
                __m512i high = _mm512_setzero_si512(), low = high;
                for (int k = 0; k < 4; k++) {
                    long row = j + four + k;
                    __mmask16 there = row < seen ? inside : 0;
                    __m512 x = less(there, value + row * stride + column, mean);
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
        Rows given = {room->near, room->strip, 0, rows, &to};
        multiply_rows(&given, room->keys, room->strip, 0, ceiling(seen, EDGE), 2);
        /* Key j is at distance `centre` - i + j in the table of row i. */
        long first = a->positions ? (a->centre - i - rows + 1) / EDGE : 0;
        if (a->positions) {
            long last = (a->centre - i + seen - 1) / EDGE;
            take_queries(a, query, a->far + head * a->width, rows, room, room->far, room->far_peak);
            for (long k = 0; k < rows; k++) room->far_peak[k] *= LOG2_E;
            const float *worth = a->worth + head * a->distances + first * EDGE;
            to = (Finish){room->far_peak, worth, 0, room->bands, room->band, room->band, 2, NOTHING};
            const int8_t *table = a->positions + (head * a->distances / EDGE + first) * room->strip;
            given.tiles = room->far;
            multiply_rows(&given, table, room->strip, 0, last - first + 1, 2);
        }
        for (long k = 0; k < rows; k++) {
            float *band = a->positions ? room->bands + k * room->band + a->centre - i - k - first * EDGE : 0;
            int8_t *tiles = room->weights + k / EDGE * room->across + k % EDGE * DEPTH;
            weigh(room->scores + k * room->columns, band, seen, tiles, room->normal + k);
        }
        float *out = a->out + start + i * stride;
        to = (Finish){room->normal, room->values_worth, room->values_mean, out, a->width, stride, 2, NOTHING};
        given = (Rows){room->weights, room->across, 0, rows, &to};
        multiply_rows(&given, room->values, ceiling(seen, DEPTH) * 2 * TILE, 0, ceiling(a->width, EDGE), 2);
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
