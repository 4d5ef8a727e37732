-- Make a model the one that requests are checked against: it is loaded.
-- ARGV: hash of its card, the packed card
local card_hash, card = ARGV[1], ARGV[2]

redis.call('SET', MODEL_CARD .. card_hash, card, 'PX', MODEL_CARD_TTL_MS)
redis.call('SET', CURRENT_MODEL, card_hash, 'PX', MODEL_CARD_TTL_MS)
redis.call('DEL', LOADING)
