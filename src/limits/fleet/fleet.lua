-- One message of one proxy: it is here, and what it reports of hot clients; what it gets for them.
-- Its twin, which the simulations run, is rules/lease/ledger.rs.
--
-- KEYS  members, hot, version, then an account for each report
-- ARGV  who, proxies it believes in, version of the hot list it has, 'here' or 'leaving', the message's number,
--       then for each report: the client's name, rate, burst, least, demand, tokens, peak, back, share and burst it has
-- reply proxies there are, version, the hot list if it is another than the proxy has, for each report a grant:
--       share, burst and tokens, or nothing where the client is hot no longer

local LEASE, LIVE, PROXIES, HOT, KEPT = 2, 10, 256, 10000, 600

local now = redis.call('TIME')
now = tonumber(now[1]) + tonumber(now[2]) / 1e6
local me, known, has, staying, number = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == 'here', tonumber(ARGV[5])

-- What somebody else wrote there is not believed.
local function only(key, kind)
  local is = redis.call('TYPE', key).ok
  if is ~= kind and is ~= 'none' then redis.call('UNLINK', key) end
end
only(KEYS[1], 'zset')
only(KEYS[2], 'zset')
only(KEYS[3], 'string')

-- Who is there.
if staying then
  redis.call('ZADD', KEYS[1], now, me)
else
  redis.call('ZREM', KEYS[1], me)
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - LIVE)
redis.call('ZREMRANGEBYSCORE', KEYS[1], now + 1, '+inf')
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -PROXIES - 1)
redis.call('EXPIRE', KEYS[1], 2 * LIVE)
local seen, list = {}, redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #list, 2 do seen[list[i]] = tonumber(list[i + 1]) end
local counted = #list / 2

local function sane(number)
  return number and number == number and number >= 0 and number < 1e15
end

-- An account as text: pool, at, born, parts, then of each holder who, share, held, need, tokens, at, burst, number. What is
-- held is the most that he may have of the rate until he reports again: the answer that granted him less may be lost.
local function read(key)
  local text = redis.pcall('GETRANGE', key, 0, 32767)
  if type(text) ~= 'string' then
    redis.call('UNLINK', key)
    return nil
  end
  local words = {}
  for word in text:gmatch('%S+') do words[#words + 1] = word end
  if #words < 4 or (#words - 4) % 8 ~= 0 then return nil end
  local account = { holders = {}, order = {} }
  local function value(i)
    local is = tonumber(words[i])
    if not sane(is) then account = nil; return 0 end
    return is
  end
  local pool, at, born, parts = value(1), value(2), value(3), value(4)
  if not account or parts < 1 then return nil end
  account.pool, account.at, account.born, account.parts = pool, at, born, parts
  for i = 5, #words, 8 do
    local holder = {
      share = value(i + 1), held = value(i + 2), need = value(i + 3), tokens = value(i + 4), at = value(i + 5),
      burst = value(i + 6), number = value(i + 7)
    }
    if not account then return nil end
    account.holders[words[i]] = holder
    account.order[#account.order + 1] = words[i]
  end
  return account
end

local function write(key, account)
  local words = { string.format('%.9g %.17g %.17g %d', account.pool, account.at, account.born, account.parts) }
  for _, who in ipairs(account.order) do
    local h = account.holders[who]
    words[#words + 1] = string.format('%s %.9g %.9g %.9g %.9g %.17g %.9g %.17g',
      who, h.share, h.held, h.need, h.tokens, h.at, h.burst, h.number)
  end
  redis.call('SET', key, table.concat(words, ' '), 'EX', KEPT)
end

local function held(account)
  local sum = 0
  for _, who in ipairs(account.order) do sum = sum + account.holders[who].held end
  return sum
end

-- The even parts of those who have not reported yet: they don't know of the account.
local function others_even(account, at)
  if at - account.born > LIVE then return 0 end
  return math.max(account.parts - #account.order, 0) / account.parts
end

-- What `all` comes to for a need: all needs are met and the rest is dealt out by them; or they are met up to one level.
local function targets(account, all)
  local needs, sum = {}, 0
  for i, who in ipairs(account.order) do
    needs[i] = account.holders[who].need
    sum = sum + needs[i]
  end
  local level, times = math.huge, 1
  if sum <= all then
    times = all / sum
  else
    table.sort(needs)
    local left, count = all, #needs
    for _, need in ipairs(needs) do
      level = left / count
      if need > level then break end
      left, count = left - need, count - 1
    end
  end
  return function(need) return math.min(need * times, level) end
end

-- The share that `me` should have: all that is free up to its part by demand; less than it has only where others lack.
local function share_of(account, mine, free, all)
  if mine.need == 0 then return 0 end
  local target = targets(account, all)
  if mine.share <= target(mine.need) then return math.min(target(mine.need), free) end
  local lacking = 0
  for _, who in ipairs(account.order) do
    if who ~= me then
      local h = account.holders[who]
      lacking = lacking + math.max(math.min(h.need, target(h.need)) - h.share, 0)
    end
  end
  local unused = free - mine.share
  return math.max(mine.share - math.max(lacking - unused, 0), target(mine.need))
end

-- What `me` gets for its report; nothing: the account is closed, everybody has his even part again.
local function step(account, rate, burst, least, demand, tokens, peak, back, has_share, has_burst)
  local mine = account.holders[me]
  -- A later message was faster: nobody waits for this one's answer, and what it says is no longer so.
  if mine and mine.number >= number then return string.format('%.9g %.9g 0', mine.share, mine.burst) end

  -- The clock went back: no time has passed, and what began has begun now.
  account.at, account.born = math.min(account.at, now), math.min(account.born, now)

  local taken = held(account) + others_even(account, account.at)
  account.pool = account.pool + math.max(1 - taken, 0) * rate * (now - account.at)
  account.at = now

  -- Who has not been heard for longer than a lease has gone back to an even part; or is gone. Of whom the list of members does
  -- not know, which may have been lost, his last report says when he was heard.
  local even, order = 1 / account.parts, {}
  for _, who in ipairs(account.order) do
    local h = account.holders[who]
    h.at = math.min(h.at, now)
    local silent = now - (seen[who] or h.at)
    if silent > LIVE or (who == me and not staying) then
      account.holders[who] = nil
    else
      order[#order + 1] = who
      if silent > LEASE then
        h.share, h.held, h.need, h.tokens, h.burst = even, even, even, burst, math.max(burst * even, least)
      end
    end
  end
  account.order = order
  -- Who leaves has nothing any more.
  if not staying then
    if #order == 0 then return nil end
    return '0 0 0'
  end

  mine = account.holders[me]
  if not mine then
    mine = { share = 0, held = 0, need = 0, tokens = 0, at = 0, burst = 0, number = 0 }
    account.holders[me] = mine
    order[#order + 1] = me
  end
  mine.need = math.min(demand / rate, 1)
  mine.share = math.min(has_share, 1)
  mine.held, mine.number = mine.share, number
  local elsewhere = others_even(account, now)
  local free = math.max(1 - (held(account) - mine.held + elsewhere), 0)
  local share = math.min(math.max(share_of(account, mine, free, 1 - elsewhere), 0), free)
  -- What rounding leaves of one is none.
  if share < 1e-6 then share = 0 end
  mine.share, mine.held = share, math.max(mine.held, share)

  -- Who has no share keeps a request's worth; who has one gathers two, so that he makes use of it, and of the rest his share.
  local idle, spread, wanted = 0, elsewhere * burst, false
  for _, who in ipairs(order) do
    local h = account.holders[who]
    if h.share == 0 then idle = idle + 1 end
    wanted = wanted or h.held > 0 or h.need > 0
    -- All buckets together hold no more than one would: what they may have had when here were the most. What a holder
    -- has too much is on its way back.
    if who ~= me then
      local by_now = h.tokens + h.held * rate * math.max(now - h.at, 0)
      spread = spread + math.min(by_now, math.max(h.burst, h.tokens))
    end
  end
  local active = #order - idle
  local shared = math.max(burst - idle * least, 0)
  local base = math.min(math.max(shared / math.max(active, 1), least), 2 * least)
  local rest = math.max(shared - active * base, 0)
  local gathers = least
  if share > 0 then gathers = base + rest * share end

  account.pool = math.min(account.pool + back, math.max(burst - spread - peak, 0))
  local given = math.max(math.min(account.pool, gathers - tokens), 0)
  -- Of less than a request nobody has any use.
  if share == 0 and tokens + given < least then given = 0 end
  account.pool = account.pool - given
  mine.tokens, mine.at, mine.burst = tokens + given, now, math.max(gathers, math.min(has_burst, burst))

  local full = account.pool >= math.max(burst - spread - tokens - given, 0) - 1e-6
  if full and elsewhere == 0 and not wanted then return nil end
  return string.format('%.9g %.9g %.9g', share, gathers, given)
end

local changed = redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - KEPT) > 0
redis.call('ZREMRANGEBYSCORE', KEYS[2], now + 1, '+inf')
changed = redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -HOT - 1) > 0 or changed

local grants = {}
for i = 4, #KEYS do
  local at = 6 + (i - 4) * 10
  local name, numbers = ARGV[at], {}
  for j = 1, 9 do numbers[j] = tonumber(ARGV[at + j]) end
  local account, grant = read(KEYS[i]), ''
  -- More are not kept in step: they have their even parts.
  if account or redis.call('ZCARD', KEYS[2]) < HOT then
    account = account or { pool = 0, at = now, born = now, parts = math.max(known, counted), holders = {}, order = {} }
    grant = step(account, unpack(numbers)) or ''
  end
  if grant ~= '' then
    write(KEYS[i], account)
    local listed = redis.call('ZADD', KEYS[2], now, name) == 1
    changed = changed or listed
  else
    redis.call('UNLINK', KEYS[i])
    local listed = redis.call('ZREM', KEYS[2], name) == 1
    changed = changed or listed
  end
  grants[#grants + 1] = grant
end
redis.call('EXPIRE', KEYS[2], KEPT)

local version = redis.call('GETRANGE', KEYS[3], 0, 31)
if changed or version == '' then version = string.format('%.6f', now) end
redis.call('SET', KEYS[3], version, 'EX', KEPT)
local hot = false
if version ~= has then
  hot = {}
  for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    if #name == 24 then
      hot[#hot + 1] = name
    else
      redis.call('ZREM', KEYS[2], name)
    end
  end
end
return { counted, version, hot, grants }
