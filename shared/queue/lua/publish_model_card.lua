-- Make a model card the current one, which requests are checked against: its model is loaded.
-- ARGV: hash of the card, the packed card
local card_hash, card = ARGV[1], ARGV[2]

redis.call('SET', MODEL_CARD .. card_hash, card, 'PX', MODEL_CARD_TTL_MS)
redis.call('SET', MODEL_CREATED .. card_hash, ms(NOW), 'NX', 'PX', MODEL_CARD_TTL_MS)
redis.call('SET', CURRENT_MODEL, card_hash, 'PX', MODEL_CARD_TTL_MS)
redis.call('DEL', LOADING)
