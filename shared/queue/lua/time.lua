-- Put before every script: its time, and how times are written.
local time = redis.call('TIME')
local NOW = time[1] * 1000 + time[2] / 1000 -- ms, with a fraction: keeps the order within one ms

local function ms(value)
  return string.format('%.0f', math.floor(value))
end
